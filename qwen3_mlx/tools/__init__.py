"""Tools: functions and MCP servers that a model may call, the tool loop, and the user's consent."""
