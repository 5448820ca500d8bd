"""Recall of region proposals, and statistics of guided anchors."""

from .proposal_recall import ProposalRecallEvaluator, recall_of_metrics, recall_of_proposals

__all__ = ["ProposalRecallEvaluator", "recall_of_metrics", "recall_of_proposals"]
