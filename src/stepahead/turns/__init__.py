"""What a model says in one turn: reasoning, text and tool calls, told apart while the tokens come."""
