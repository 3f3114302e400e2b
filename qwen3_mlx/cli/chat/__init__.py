"""What both chats share, and the chat by lines."""
