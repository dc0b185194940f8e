"""Entropy of representations and mutual information between views: pure, differentiable functions of tensors, in nats."""

from genssl.estimators.categorical import categorical_entropy, categorical_joint_entropy
from genssl.estimators.gaussian_pairs import gaussian_mutual_information, gaussian_pair_critic
from genssl.estimators.hypersphere import alignment, uniformity
from genssl.estimators.kernel_density import kde_entropy
from genssl.estimators.log_determinant import joint_logdet_entropy, logdet_entropy, logdet_expansion_entropy
from genssl.estimators.mutual_information import barber_agakov, dv, infonce, js, nwj, smile, tuba
from genssl.estimators.nearest_neighbours import knn_entropy
from genssl.estimators.plug_in import plug_in_entropy, stop_gradient_plug_in

__all__ = [
    "alignment",
    "barber_agakov",
    "categorical_entropy",
    "categorical_joint_entropy",
    "dv",
    "gaussian_mutual_information",
    "gaussian_pair_critic",
    "infonce",
    "joint_logdet_entropy",
    "js",
    "kde_entropy",
    "knn_entropy",
    "logdet_entropy",
    "logdet_expansion_entropy",
    "nwj",
    "plug_in_entropy",
    "smile",
    "stop_gradient_plug_in",
    "tuba",
    "uniformity",
]
