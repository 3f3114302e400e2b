"""Tools in the terminal: what a person is shown and asked, and the turns that call them."""
