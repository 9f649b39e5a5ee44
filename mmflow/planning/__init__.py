"""What a run will cost, before it runs: FLOPs, memory, bytes on the wire, days."""
