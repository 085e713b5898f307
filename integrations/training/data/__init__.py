"""Training text: files of people, episodes, what the base writes itself; as samples of token ids."""
