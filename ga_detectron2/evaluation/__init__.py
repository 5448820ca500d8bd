"""Scores of region proposals."""

from .proposal_recall import ProposalRecallEvaluator

__all__ = ["ProposalRecallEvaluator"]
