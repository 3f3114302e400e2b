"""Tools: functions and MCP servers that a model may call, the loop that runs them, and consent."""
