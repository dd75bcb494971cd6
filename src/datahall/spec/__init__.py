"""The application file: its schema, loading with file:line:column errors, its policy, and the plan of what must run."""
