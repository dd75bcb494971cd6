"""Everything that touches a machine or a service, one backend a file."""
