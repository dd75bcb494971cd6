"""The nouns: frozen records, one a file, without I/O."""

from datahall.core.records.answer import Answer, AnswerSegment
from datahall.core.records.app import App, Task
from datahall.core.records.artifact import Artifact, Grant, Tree
from datahall.core.records.base import R, Record
from datahall.core.records.bundle import Bundle, BundleManifest, EngineName
from datahall.core.records.decided import Decided
from datahall.core.records.deployment import (
    MIN_RATE_PER_S,
    Deployment,
    KeyGrant,
    Priority,
    Quota,
    Replica,
    Route,
    RouteReplica,
    RouteTable,
    TeamRule,
)
from datahall.core.records.entry import Act, Change, Checkpoint, Entry, EntryKind, Touched
from datahall.core.records.environment import Environment
from datahall.core.records.evidence import Evidence, EvidenceKey, Exhibit, Figure, Measurement, Particulars
from datahall.core.records.garbage import Garbage
from datahall.core.records.holdout import Holdout
from datahall.core.records.lease import Call, Lease
from datahall.core.records.policy import Claim, Policy
from datahall.core.records.principal import ApiKey
from datahall.core.records.retired_master import RetiredMaster
from datahall.core.records.run import Run
from datahall.core.records.snapshot import Column, ColumnKind, Snapshot, Source, Split
from datahall.core.records.step import Step, StepState
from datahall.core.records.verdict import Finding, Outcome, Verdict
from datahall.core.records.version import Candidate, Version

CATALOGUE_RECORDS: tuple[type[Record], ...] = (
    AnswerSegment,
    ApiKey,
    App,
    Artifact,
    Bundle,
    Candidate,
    Deployment,
    Environment,
    Evidence,
    EvidenceKey,
    Garbage,
    Holdout,
    Policy,
    Replica,
    RetiredMaster,
    RouteTable,
    Run,
    Snapshot,
    Step,
    Verdict,
    Version,
)
"""Every record that has a table."""

__all__ = [
    "CATALOGUE_RECORDS",
    "MIN_RATE_PER_S",
    "Act",
    "Answer",
    "AnswerSegment",
    "ApiKey",
    "App",
    "Artifact",
    "Bundle",
    "BundleManifest",
    "Call",
    "Candidate",
    "Change",
    "Checkpoint",
    "Claim",
    "Column",
    "ColumnKind",
    "Decided",
    "Deployment",
    "EngineName",
    "Entry",
    "EntryKind",
    "Environment",
    "Evidence",
    "EvidenceKey",
    "Exhibit",
    "Figure",
    "Finding",
    "Garbage",
    "Grant",
    "Holdout",
    "KeyGrant",
    "Lease",
    "Measurement",
    "Outcome",
    "Particulars",
    "Policy",
    "Priority",
    "Quota",
    "R",
    "Record",
    "Replica",
    "RetiredMaster",
    "Route",
    "RouteReplica",
    "RouteTable",
    "Run",
    "Snapshot",
    "Source",
    "Split",
    "Step",
    "StepState",
    "Task",
    "TeamRule",
    "Touched",
    "Tree",
    "Verdict",
    "Version",
]
