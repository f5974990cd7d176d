"""Every code of the protocol has a test that produces it, in the situation it is for."""

import ast
from pathlib import Path

import pytest

from starling.protocol import codes

FOLDER = Path(__file__).parent

PRODUCED = {
    100: "test_outages.test_without_the_broker_a_publication_is_100_and_later_goes_through",
    101: "test_applications.test_an_application_refuses_with_a_code_of_its_choice",
    102: "test_subscribing.test_a_client_may_not_enter_invalid_or_foreign_channels",
    103: "test_subscribing.test_a_client_may_not_enter_invalid_or_foreign_channels",
    104: "test_applications.test_a_method_that_the_application_does_not_have_is_104",
    105: "test_subscribing.test_a_client_that_is_in_a_channel_by_its_token_cannot_enter_it_again",
    106: "test_endings.test_one_channel_more_than_allowed_is_106_and_the_rest_stays",
    107: "test_subscribing.test_a_client_may_not_enter_invalid_or_foreign_channels",
    108: "test_history.test_a_channel_without_history_says_so",
    109: "test_connecting.test_an_expired_token_lets_the_sdk_fetch_another",
    110: "test_endings.test_a_connection_whose_time_was_over_before_it_began_is_110",
    111: "test_limits.test_commands_over_the_rate_are_111_and_far_over_it_3013",
    112: "test_history.test_a_position_of_another_stream_is_unrecoverable",
    2000: "test_backends.test_a_backend_takes_a_client_out_of_a_channel_with_2000_for_good",
    2500: "test_outages.test_a_stream_that_broke_off_is_reported_with_2500_and_3010",
    2501: "test_endings.test_what_is_never_renewed_ends_connections_with_3005_and_subscriptions_with_2501",
    2502: "test_backends.test_a_client_whose_state_is_invalid_fetches_it_anew_by_2502_and_3014",
    # A connection that is gone gets no reason; the operators of the service do.
    3000: "test_endings.test_a_client_that_vanishes_is_3000_in_the_numbers_and_in_the_log",
    3001: "test_endings.test_a_stopping_service_disconnects_clients_with_3001_and_they_return",
    3004: "test_endings.test_a_fault_of_the_service_itself_is_3004_and_the_client_returns",
    3005: "test_endings.test_what_is_never_renewed_ends_connections_with_3005_and_subscriptions_with_2501",
    3006: "test_endings.test_a_subscription_of_the_token_whose_end_comes_ends_the_connection_with_3006",
    3008: "test_endings.test_a_client_that_reads_too_slowly_is_cut_with_3008_and_returns",
    3009: "../server/test_writing.test_a_client_gone_when_written_to_is_3009_in_numbers_and_log",
    3010: "test_outages.test_a_stream_that_broke_off_is_reported_with_2500_and_3010",
    3011: "test_backends.test_these_codes_of_a_backend_bring_every_sdk_back",
    3012: "test_endings.test_a_client_that_does_not_answer_pings_is_cut_with_3012_and_returns",
    3013: "test_limits.test_commands_over_the_rate_are_111_and_far_over_it_3013",
    3014: "test_backends.test_a_client_whose_state_is_invalid_fetches_it_anew_by_2502_and_3014",
    3500: "test_connecting.test_no_token_where_one_is_needed_stops_the_sdk",
    3501: "test_endings.test_a_frame_that_is_no_command_is_3501",
    3502: "test_endings.test_silence_instead_of_a_connect_command_is_3502",
    3503: "test_backends.test_a_backend_that_disconnects_a_client_stops_it_with_3503",
    3504: "test_limits.test_one_connection_of_a_user_more_than_allowed_is_3504_and_the_others_stay",
    3505: "test_endings.test_more_channels_in_the_token_than_allowed_are_3505",
    3506: "test_endings.test_an_answer_in_bytes_that_are_no_json_ends_a_json_client_with_3506",
    3507: "test_applications.test_an_application_turns_a_client_away_with_3507_for_good",
    3508: "test_endings.test_a_message_that_nobody_takes_is_3508",
    3509: "test_endings.test_errors_without_end_are_3509",
}

ALL = sorted(
    value.code
    for value in vars(codes).values()
    if isinstance(value, codes.Error | codes.Unsubscribe | codes.Disconnect)
)


def test_every_code_is_in_the_table_once() -> None:
    assert sorted(PRODUCED) == ALL


@pytest.mark.parametrize("code", PRODUCED)
def test_the_named_test_is_there_and_looks_for_the_code(code: int) -> None:
    module, _, name = PRODUCED[code].rpartition(".")
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    (test,) = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name == name]
    # In its body, or among its parameters.
    assert code in [node.value for node in ast.walk(test) if isinstance(node, ast.Constant)]
