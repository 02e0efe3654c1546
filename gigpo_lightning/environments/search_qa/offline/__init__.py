"""An invented world with questions on it, a retriever that knows it, and an expert that reads."""
