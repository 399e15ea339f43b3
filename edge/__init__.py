"""The agent that runs on each Pi. Imports `common`, never `hub`."""
