"""What makes a stored result reusable: the identity of a call, the text of a query, and decisions with reasons."""
