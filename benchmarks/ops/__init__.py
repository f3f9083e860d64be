"""One benchmark per operator, named like the operator."""
