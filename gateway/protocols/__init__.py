"""Wire dialects: pure translations between text or bytes and `gateway.messages`, without any I/O."""
