"""Keys, signatures, envelope encryption and who may do what."""
