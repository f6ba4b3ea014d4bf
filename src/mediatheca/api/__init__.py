"""HTTP only: the front door, authentication, errors, and the CRUD routes derived from resource declarations."""
