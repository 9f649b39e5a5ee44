"""Frozen networks between the user's data and the model. The data module owns them; nothing here learns."""
