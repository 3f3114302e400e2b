"""An HTTP server with OpenAI's and Anthropic's APIs; every request is a turn of the scheduler."""
