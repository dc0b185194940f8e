"""The gallery: one method a file, a guide, an objective, and a Pyro model where it is generative."""

from genssl.models.aavae import AAVAE
from genssl.models.barlow_twins import BarlowTwins
from genssl.models.byol import BYOL
from genssl.models.clip import CLIP
from genssl.models.content_simvae import ContentSimVAE
from genssl.models.crvae import CRVAE
from genssl.models.deep_cluster import DeepCluster
from genssl.models.dino import DINO
from genssl.models.discriminative import DiscriminativeMethod
from genssl.models.infonce import InfoNCE
from genssl.models.instance_discrimination import InstanceDiscrimination
from genssl.models.ldm import LDM
from genssl.models.mc_infonce import MCInfoNCE
from genssl.models.method import GenerativeMethod, Method, Preset
from genssl.models.mixture_simvae import MixtureSimVAE
from genssl.models.moco import MoCo
from genssl.models.neural_statistician import NeuralStatistician
from genssl.models.simclr import SimCLR
from genssl.models.simsiam import SimSiam
from genssl.models.simvae import SimVAE
from genssl.models.swav import SwAV
from genssl.models.vae import VAE, BetaVAE
from genssl.models.variational_classification import VariationalClassification
from genssl.models.vi_simsiam import VISimSiam
from genssl.models.vicreg import VICReg
from genssl.models.wmse import WMSE

__all__ = [
    "AAVAE",
    "BYOL",
    "CLIP",
    "CRVAE",
    "DINO",
    "LDM",
    "VAE",
    "WMSE",
    "BarlowTwins",
    "BetaVAE",
    "ContentSimVAE",
    "DeepCluster",
    "DiscriminativeMethod",
    "GenerativeMethod",
    "InfoNCE",
    "InstanceDiscrimination",
    "MCInfoNCE",
    "Method",
    "MixtureSimVAE",
    "MoCo",
    "NeuralStatistician",
    "Preset",
    "SimCLR",
    "SimSiam",
    "SimVAE",
    "SwAV",
    "VICReg",
    "VISimSiam",
    "VariationalClassification",
]
