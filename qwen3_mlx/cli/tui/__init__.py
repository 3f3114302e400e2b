"""The full-screen chat. Only this package imports textual."""
