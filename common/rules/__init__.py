"""Recording and alerting rules: loader and pure evaluation steps."""
