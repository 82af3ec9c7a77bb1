"""Architectures, one per file: embedded fields in, logits or vectors out."""

from models.bert4rec import BERT4Rec as BERT4Rec
from models.dare import DARE as DARE
from models.dcnv2 import DCNv2 as DCNv2
from models.deepfm import DeepFM as DeepFM
from models.din import DIN as DIN
from models.dlrm import DLRM as DLRM
from models.esasrec import ESASRec as ESASRec
from models.fm import FM as FM
from models.gsasrec import GSASRec as GSASRec
from models.history_ranker import HistoryRanker as HistoryRanker
from models.hstu import HSTU as HSTU
from models.sasrec import SASRec as SASRec
from models.transformer import SequenceTransformer as SequenceTransformer

__all__ = [
    "DARE",
    "DIN",
    "DLRM",
    "FM",
    "HSTU",
    "BERT4Rec",
    "DCNv2",
    "DeepFM",
    "ESASRec",
    "GSASRec",
    "HistoryRanker",
    "SASRec",
    "SequenceTransformer",
]
