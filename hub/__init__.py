"""The hub that federates, stores, evaluates, alerts and serves. Imports `common`, never `edge`."""
