"""Entity types of other people's data in terms of ours, by form of source. What a user says goes before it.

None is what is no name: times, amounts, kinds of things. Sources: the tag sets of CoNLL-2003 and WikiGold, OntoNotes 5,
ThaiNER, the slots of SNIPS (Coucke et al., arXiv:1805.10190), of multilingual_task_dialog (Schuster et al., NAACL 2019)
and of SLURP (Bastianelli et al., EMNLP 2020), which MASSIVE uses too.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from thaitool.records import ENTITY_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

_OURS: dict[str, str | None] = {name: name for name in ENTITY_TYPES}


def _table(
    per: str = "", loc: str = "", org: str = "", oth: str = "", none: str = ""
) -> Mapping[str, str | None]:
    """Types in words, separated by spaces."""
    table = dict(_OURS)
    for kind, names in (("PER", per), ("LOC", loc), ("ORG", org), ("OTH", oth), (None, none)):
        table.update(dict.fromkeys(names.split(), kind))
    return MappingProxyType(table)


BIO_TYPES = _table(
    per="PERSON",
    loc="LOCATION GPE FAC",
    org="ORGANIZATION ORGANISATION",
    oth="MISC NORP PRODUCT EVENT WORK_OF_ART LAW LANGUAGE",
    none="DATE TIME EMAIL LEN MONEY PERCENT PHONE URL ZIP QUANTITY ORDINAL CARDINAL",
)

SNIPS_TYPES = _table(
    per="artist",
    loc="city country state geographic_poi poi",
    org="restaurant_name location_name service",
    oth="album entity_name movie_name object_name playlist served_dish track",
    none="best_rating condition_description condition_temperature cuisine current_location facility genre movie_type"
    " music_item object_location_type object_part_of_series_type object_select object_type party_size_description"
    " party_size_number playlist_owner rating_unit rating_value restaurant_type sort spatial_relation timeRange year",
)

DIALOG_TYPES = _table(
    loc="location",
    none="datetime alarm/alarm_modifier demonstrative_reference negation news/type timer/attributes timer/noun"
    " reminder/noun reminder/recurring_period reminder/reference reminder/reminder_modifier reminder/todo"
    " weather/attribute weather/noun weather/temperatureUnit",
)

SLURP_TYPES = _table(
    per="person artist_name audiobook_author",
    loc="place_name",
    org="business_name transport_agency radio_name",
    oth="app_name audiobook_name event_name game_name list_name movie_name music_album playlist_name podcast_name"
    " song_name transport_name",
    none="alarm_type business_type change_amount coffee_type color_type cooking_type currency_name date definition_word"
    " device_type drink_type email_address email_folder food_type game_type general_frequency house_place ingredient"
    " joke_type meal_type media_type movie_type music_descriptor music_genre news_topic order_type personal_info"
    " player_setting podcast_descriptor query_detail relation sport_type time time_zone timeofday"
    " transport_descriptor transport_type weather_descriptor",
)

OUR_TYPES = _table()
