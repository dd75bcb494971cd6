"""From a request on the wire to an answer that can be followed back."""
