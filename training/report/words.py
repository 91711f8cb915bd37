"""Owns the sentences of the report that no measurement changes: use, published figures, limits, checklists."""

# ruff: noqa: E501, ISC004 - sentences and table rows
from __future__ import annotations

from typing import Any, Final

INTENDED: Final = (
    "Research on sorting photographs of skin lesions. It lists how strongly a photo resembles those of the training; "
    "it gives no diagnosis, and nobody's care may depend on it."
)
NOT_FOR: Final = (
    "Diagnosis, triage or exclusion of mpox in any person.",
    "Photographs that show no skin lesion, or were taken through a dermatoscope or microscope.",
    "Populations, skin tones, body sites and cameras that the data below do not hold.",
)
SYNTHETIC: Final = (
    "SYNTHETIC: every photo behind these figures was generated. They prove that the software works and say nothing "
    "about patients; no figure here may stand beside one of a clinical study."
)
SHORTCUT: Final = (
    "Something other than a lesion tells the label (see Shortcuts): the network may have learnt that, and no figure here "
    "shows what it does where that is missing."
)
EXTERNAL: Final = "External validation: none done."
PUBLISHED_NOTE: Final = (
    "Others' figures on photographs of people, with how they were split. Splits by image, or after augmentation, put photos of "
    "one patient on both sides; such figures are too good and are no yardstick."
)
# Facts from the sources named; n/g: the split keeps patients whole.
PUBLISHED: Final[tuple[dict[str, str], ...]] = (
    {"work": "MSLD v1.0, ResNet50 (arXiv 2207.03342)", "task": "mpox or other, 228 photos", "figure": "accuracy 0.830 ± 0.046",
     "split": "by patient, 3 folds; validation augmented"},
    {"work": "MSLD v2.0, best of the paper (arXiv 2306.14169)", "task": "six classes, 755 photos", "figure": "accuracy 0.836 ± 0.021",
     "split": "5 folds as published"},
    {"work": "mpox_monkey, ResNet50 (github.com/ibrahimsadek/mpox_monkey)", "task": "mpox or other, 876 photos",
     "figure": "accuracy 0.852 ± 0.036, AUROC 0.912 (0.891-0.932)", "split": "by patient and near-duplicate, 5 folds; not peer reviewed"},
    {"work": "the same, one network, two splits", "task": "mpox or other", "figure": "AUROC 0.807 by image, 0.737 by patient",
     "split": "shows what a split by image adds"},
    {"work": "MonkeyNet (PMC9943560)", "task": "four classes, 770 photos", "figure": "accuracy 0.932 original, 0.989 augmented",
     "split": "by image, no patient ids: the gap is the mark of leakage"},
    {"work": "MPXV-CNN (PMC10033450)", "task": "mpox or other, clinical", "figure": "AUROC 0.966, sensitivity 0.91, specificity 0.898",
     "split": "held-out sets; prospective part of 12 patients"},
    {"work": "Melbourne (JMIR 2024;26:e52490)", "task": "mpox or other, 2,200 clinic photos", "figure": "AUROC 0.928; 0.982 with lesion crop",
     "split": "clinic-sourced"},
)  # fmt: skip
NOT_BESIDE: Final = (
    "Left out: the photos of this evaluation are synthetic, and no synthetic figure is shown beside one of a clinical "
    "study. An evaluation on photographs of people lists the published figures here, each with its type of split."
)
ALARM: Final = 0.92
LIMITS: Final = (
    "Photos of other cameras, places, body sites and diseases than those of the data may be judged wrongly, and "
    "no figure here can show it.",
    "Predictive values depend on how common mpox is where it is used; the tables show four prevalences, and none of them is yours.",
    "Calibration and prediction sets hold for photos drawn like those of the data, and for no others.",
    "The gate turns away much that shows no skin, not all; its table says how much.",
    "The evidence map shows where the network's last features speak for the answer. It is no outline of a lesion and no reason.",
    "Intervals resample patients; they do not cover the choice of data, of labels or of recipe. Where all patients are alike, as "
    "where none is missed, a share has the exact interval of so many patients instead; another figure is marked as the same in every "
    "resample, which makes it no surer.",
)
NO_TONES: Final = "The data carry no skin tones: whether the network is worse on dark skin is not known."
# Topics in our own words, each with the section that answers it or what is missing; the official forms are longer.
CHECKLISTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "CLAIM 2024 (medical imaging AI)": (
        ("Study question, intended use, role of the model", "use"),
        ("Data sources, eligibility, de-duplication", "data"),
        (
            "Reference standard and its rationale",
            "not done: labels are those of the data set, not re-read by clinicians",
        ),
        ("How data were split, and at which level", "split"),
        ("Model, initial weights, training, selection", "identity"),
        ("Metrics with uncertainty", "pooled"),
        ("Robustness and sensitivity analysis", "robustness"),
        ("Confounders in the photos", "shortcuts"),
        ("Explainability, and its validation", "explanations"),
        ("External test", "external"),
        ("Failure analysis", "errors"),
        ("Limitations", "limits"),
    ),
    "TRIPOD+AI (prediction models)": (
        ("Participants, setting, dates", "not done: the data set does not record them"),
        ("Outcome and predictors", "data"),
        ("Sample size", "data"),
        ("Missing data", "not applicable: a photo is there or it is not"),
        ("Model specification in full", "identity"),
        ("Discrimination and calibration", "calibration"),
        ("Clinical utility (decision curve)", "plots"),
        ("Fairness across groups", "subgroups"),
        ("Availability of model and code", "identity"),
    ),
    "STARD-AI (diagnostic accuracy)": (
        ("Index test and thresholds, fixed before the test photos", "operating"),
        ("Reference standard", "not done: no PCR result is known for any photo"),
        ("Flow of participants", "data"),
        ("Cross tabulation of answers and truth", "plots"),
        ("Estimates with intervals", "pooled"),
        ("Indeterminate results and how they are handled", "abstention"),
        ("Adverse events", "not applicable: nobody was examined"),
    ),
    "Model card": (
        ("Details, version, licence", "identity"),
        ("Intended and excluded use", "use"),
        ("Factors and groups", "subgroups"),
        ("Metrics and thresholds", "operating"),
        ("Evaluation and training data", "data"),
        ("Ethical considerations and caveats", "limits"),
    ),
    "Datasheet for the data set": (
        ("Composition: images and patients per class", "data"),
        ("Collection process and consent", "not done: photographs from the web carry no record of consent"),
        ("Preprocessing and de-duplication", "data"),
        ("Uses and distribution, licence", "data"),
        ("Maintenance", "not done: the makers of the data set say nothing about it"),
    ),
}
# First what anybody needs, then the proof, then what only a reviewer or an operator looks up.
SECTIONS: Final[tuple[tuple[str, str], ...]] = (
    ("summary", "Summary"),
    ("use", "Intended use"),
    ("limits", "Limits in plain words"),
    ("data", "Data"),
    ("split", "Split and leakage"),
    ("shortcuts", "Shortcuts"),
    ("pooled", "Pooled result"),
    ("folds", "Each fold"),
    ("operating", "Operating points"),
    ("plots", "Curves"),
    ("calibration", "Calibration"),
    ("abstention", "Abstention"),
    ("ood", "Pictures that are no skin"),
    ("robustness", "Robustness"),
    ("subgroups", "Subgroups"),
    ("explanations", "What the network looks at"),
    ("errors", "Errors, patient by patient"),
    ("baselines", "Baselines"),
    ("comparison", "Published figures"),
    ("external", "External validation"),
    ("identity", "Identity"),
    ("operations", "Operations"),
    ("checklists", "Reporting checklists"),
)


def published() -> dict[str, Any]:
    """The section of published figures."""
    return {"note": PUBLISHED_NOTE, "rows": [dict(row) for row in PUBLISHED]}
