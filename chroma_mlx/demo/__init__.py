"""The "ask Python" demo: a corpus every Python installation already holds, and questions about it."""
