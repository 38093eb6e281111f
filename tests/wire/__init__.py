"""What really crossed the wire: TLS 1.3 opened with the sender's own key log, and the messages inside."""
