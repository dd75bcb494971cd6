"""The append-only record of every act: its Merkle tree, signed checkpoints, proofs, and an auditor's verifier."""
