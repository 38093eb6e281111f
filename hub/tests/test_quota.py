"""How much a source may deliver, as time goes by."""

from sie_hub.ingest.quota import DAY, Quotas

ONE, OTHER = ("isp_a", "ns1"), ("isp_a", "ns2")


def test_so_much_at_once_and_as_much_again_within_a_day() -> None:
    now = 1000.0
    quotas = Quotas(1000, lambda: now)
    quotas.spend(ONE, 999)
    assert quotas.allows(ONE)
    quotas.spend(ONE, 251)  # what is on its way when nothing is left is stored still
    assert not quotas.allows(ONE)
    assert quotas.allows(OTHER)
    now += DAY / 4
    assert not quotas.allows(ONE)
    now += 100.0
    assert quotas.allows(ONE)
    now += 10 * DAY
    quotas.spend(ONE, 1000)
    assert not quotas.allows(ONE), "no more than the whole comes back"
