"""The model behind HTTP, in OpenAI's and Anthropic's words: one turn of the scheduler a request."""
