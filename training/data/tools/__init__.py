"""Conversations with tools: kinds of tools, questions for them, chats in the template's form."""
