"""The edge's log as files: segments, reading them, PromQL over them. FORMAT.md has the bytes; only the agent writes."""
