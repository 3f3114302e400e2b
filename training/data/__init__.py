"""Generators of training conversations: task families, small talk, and chats made of both."""
