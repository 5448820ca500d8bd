"""Scores of region proposals, and what guided anchors do for objects."""

from .proposal_recall import ProposalRecallEvaluator, recall_of_metrics, recall_of_proposals

__all__ = ["ProposalRecallEvaluator", "recall_of_metrics", "recall_of_proposals"]
