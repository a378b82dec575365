"""What must happen around a score: policy, operators, the gate."""
