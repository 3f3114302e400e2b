"""The full-screen chat. Only `app` and what it imports need textual; `chat` imports it last."""
