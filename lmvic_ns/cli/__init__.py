"""`lmvic COMMAND`: one table of commands; a command is a function with a typed signature."""
