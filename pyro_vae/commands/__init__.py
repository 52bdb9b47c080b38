"""The commands around training, evaluation and search: options, messages, exit statuses."""
