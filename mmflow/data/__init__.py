"""From sources to batches: what is read when (plan), from where (source), how (shard, decode, transform), and the
module.
"""
