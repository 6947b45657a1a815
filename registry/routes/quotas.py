"""`/v1/quotas`: what the business units may take of the machines, and how much of it is taken."""

from typing import Annotated

from fastapi import APIRouter, Depends

from enforcer import wire
from registry import quotas
from registry.access import Matter, May, Permit
from registry.books import TheBooks

router = APIRouter(prefix="/v1/quotas", tags=["quotas"])


def _unit_in_query(business_unit: wire.Name | None = None) -> Matter:
    return Matter(unit=business_unit)


@router.get("", operation_id="listQuotas")
def list_quotas(
    reader: Annotated[Permit, Depends(May("run-read", about=_unit_in_query))], books: TheBooks
) -> wire.QuotaList:
    """The quotas that count runs of one business unit, the caller's own unless another is named."""
    with books.reading() as session:
        gate = books.gate(session)
        counting = [quota for quota in gate.policy.quotas if quota.unit in gate.units[reader.unit]]
        return wire.QuotaList(items=[quotas.use(session, quota) for quota in counting])
