"""What health authorities are told of the uploads that they certified (publish.md 6). They are counted by `publish`."""
