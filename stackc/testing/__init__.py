"""The conformance battery for transforms and packers, for stackc itself and for plugins.

A plugin's test module needs two lines per stage::

    @pytest.mark.parametrize("check", transform_checks(Wavelet(levels=2)), ids=str)
    def test_wavelet_conforms(check): check()

`transform_checks` and `packer_checks` say which class of bug each check makes impossible. `write_frozen` and
`check_frozen` pin a released format with fixture files. `stackc.testing.strategies` has Hypothesis strategies; that
module alone needs the package hypothesis.
"""

from stackc.testing.check import Check as Check
from stackc.testing.frozen import check_frozen as check_frozen
from stackc.testing.frozen import write_frozen as write_frozen
from stackc.testing.packers import Plane as Plane
from stackc.testing.packers import packer_checks as packer_checks
from stackc.testing.planes import standard_planes as standard_planes
from stackc.testing.transforms import transform_checks as transform_checks
