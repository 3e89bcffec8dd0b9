"""What the servers say: pure functions of bytes and times, without sockets."""
