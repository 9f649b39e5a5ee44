"""What is reported of a model: official files out and in, reconstruction, sampling efficiency, the page of results."""
