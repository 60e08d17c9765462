"""Which CME field stands behind each of our names. Written from the two vocabularies, not from offsets."""

import numpy as np

from workloads.exchange import mdp3

CME = {
    "action": ("MDUpdateAction", "OrderUpdateAction"),
    "aggressor": ("AggressorSide",),
    "appl_id": ("ApplID",),
    "asset": ("Asset",),
    "base_currency": ("Currency",),
    "cfi": ("CFICode",),
    "chunk": ("CurrentChunk",),
    "chunks": ("NoChunks",),
    "cleared_volume": ("ClearedVolume",),
    "contract_multiplier": ("ContractMultiplier",),
    "contract_multiplier_unit": ("ContractMultiplierUnit",),
    "currency": ("PriceQuoteCurrency", "Currency"),  # FX has both: prices count in the first
    "decay_quantity": ("DecayQuantity",),
    "decay_start": ("DecayStartDate",),
    "delta": ("LegOptionDelta",),
    "depth": ("MarketDepth",),
    "display_factor": ("DisplayFactor",),
    "entry_type": ("MDEntryType",),
    "event_flags": ("MatchEventIndicator",),
    "event_time": ("EventTime",),
    "event_type": ("EventType",),
    "exchange": ("SecurityExchange",),
    "feed_type": ("MDFeedType",),
    "flow_schedule": ("FlowScheduleType",),
    "guid": ("InstrumentGUID",),
    "halt_reason": ("HaltReason",),
    "high": ("HighLimitPrice",),
    "high_limit": ("HighLimitPrice",),
    "instrument_id": ("SecurityID", "LegSecurityID"),
    "last_seq": ("LastMsgSeqNumProcessed",),
    "last_update_time": ("LastUpdateTime",),
    "level": ("MDPriceLevel",),
    "low": ("LowLimitPrice",),
    "low_limit": ("LowLimitPrice",),
    "main_fraction": ("MainFraction",),
    "market_segment": ("MarketSegmentID",),
    "match_algorithm": ("MatchAlgorithm",),
    "max_size": ("MaxTradeVol",),
    "max_variation": ("MaxPriceVariation",),
    "min_cab_price": ("MinCabPrice",),
    "min_size": ("MinTradeVol",),
    "open_close_flag": ("OpenCloseSettlFlag",),
    "open_interest": ("OpenInterestQty",),
    "order_id": ("OrderID",),
    "orders": ("NumberOfOrders",),
    "original_contract_size": ("OriginalContractSize",),
    "price": ("MDEntryPx", "LegPrice"),
    "price_display_format": ("PriceDisplayFormat",),
    "price_ratio": ("PriceRatio",),
    "priority": ("MDOrderPriority",),
    "put_or_call": ("PutOrCall",),
    "ratio": ("LegRatioQty",),
    "reference": ("ReferenceID",),
    "reference_date": ("TradingReferenceDate",),
    "reference_price": ("TradingReferencePrice",),
    "reports": ("TotNumReports",),
    "rpt_seq": ("RptSeq",),
    "security_group": ("SecurityGroup",),
    "security_subtype": ("SecuritySubType",),
    "security_type": ("SecurityType",),
    "settl_currency": ("SettlCurrency",),
    "settl_price_type": ("SettlPriceType",),
    "side": ("LegSide",),
    "size": ("MDEntrySize", "MDDisplayQty", "LastQty"),
    "strike": ("StrikePrice",),
    "strike_currency": ("StrikeCurrency",),
    "sub_fraction": ("SubFraction",),
    "symbol": ("Symbol",),
    "tick": ("MinPriceIncrement",),
    "tick_rule": ("TickRule",),
    "tick_value": ("MinPriceIncrementAmount",),
    "trade_date": ("TradeDate",),
    "trade_entry_id": ("MDTradeEntryID",),
    "tradeable_size": ("TradeableSize",),
    "trading_event": ("SecurityTradingEvent",),
    "trading_status": ("SecurityTradingStatus", "MDSecurityTradingStatus"),
    "transact_time": ("TransactTime",),
    "underlying_product": ("UnderlyingProduct",),
    "unit": ("UnitOfMeasure",),
    "unit_quantity": ("UnitOfMeasureQty",),
    "update_action": ("SecurityUpdateAction",),
    "user_defined": ("UserDefinedInstrument",),
    "value": ("InstAttribValue",),
}
"""Our name -> CME's; where several are given, the first that the block has."""

MATURITY = {f"maturity_{part}": part for part in ("year", "month", "day", "week")}
"""Parts of the composite MaturityMonthYear, which we keep as four fields."""


def blocks(template: int) -> dict[str, np.dtype]:
    """Our blocks of a template, or of its newer twin, by the CME name of the group; "" is the root."""
    newer = mdp3.TWINS.get(template, template)
    if newer in mdp3.DEFINITION:
        found = {
            "": mdp3.DEFINITION[newer],
            "NoEvents": mdp3.EVENT,
            "NoMDFeedTypes": mdp3.FEED_TYPE,
            "NoInstAttrib": mdp3.ATTRIBUTE,
        }
        return found | ({"NoLegs": mdp3.LEG} if newer == mdp3.DEFINITION_SPREAD else {})
    found = {"": mdp3.ROOT[newer]}
    if newer in mdp3.ENTRY:
        found["NoMDEntries"] = mdp3.ENTRY[newer]
    if newer in mdp3.ORDERS:
        found["NoOrderIDEntries"] = mdp3.ORDERS[newer]
    return found


SUPPORTED = tuple(sorted({*mdp3.ROOT, *mdp3.DEFINITION, *mdp3.TWINS}))
"""Every template that we decode, the older twins included."""
