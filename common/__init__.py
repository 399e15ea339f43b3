"""What both programs use: model, frames, storage, PromQL, rules, configuration, clock. Imports neither."""
