"""Every numbered rule of sections 1 to 5 of the behavioural specification, and of its sharp edges (10), has a test.

So has every step of the sequences that rules 2.1, 2.3 and 2.4 number.
"""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[2]


def numbered(section: str, last: int) -> list[str]:
    return [f"{section}.{number}" for number in range(1, last + 1)]


RULES = [
    *numbered("1.1", 13),
    *numbered("1.2", 6),
    *numbered("1.3", 4),
    *numbered("1.4", 6),
    *numbered("2", 8),
    *numbered("2.1", 8),
    *numbered("2.3", 3),
    *numbered("2.4", 17),
    *numbered("3", 9),
    *numbered("4", 9),
    "5.1",
    *numbered("5.2", 4),
    *(f"5.{number}" for number in range(3, 11)),
    *numbered("10", 52),
]

#: Rules whose test stands beside others of its module: the file in tests/ and what its name ends in.
ELSEWHERE = {
    "1.1.1": "core/test_core_flow.py a_flow_within_an_open_flow_is_refused",
    "1.1.2": "core/test_core_flow.py stages_are_found_by_their_normal_name",
    "1.1.3": "core/test_core_stage.py a_stage_is_opened_once",
    "1.1.4": "core/test_core_naming.py names_have_a_normal_form",
    "1.1.5": "core/test_core_plan.py stages_stand_in_the_order_in_which_they_are_opened",
    "1.1.6": "core/test_core_materialize.py a_call_within_a_stage_makes_a_task_and_does_not_run_the_function",
    "1.1.8": "core/test_core_references.py references_nest",
    "1.1.10": "core/test_core_references.py tasks_are_found_in_lists_tuples_and_dicts",
    "1.1.12": "core/test_core_flow.py a_task_of_another_flow_is_refused_as_an_argument",
    "1.1.13": "core/test_core_materialize.py defaults_are_part_of_the_call",
    "1.2.2": "core/test_core_plan.py a_task_follows_each_task_that_it_reads_once",
    "1.2.4": "core/test_core_plan.py a_stage_knows_which_stages_it_reads",
    "1.2.6": "core/test_core_stage.py several_tasks_of_one_name_need_an_index",
    "1.3.1": "core/test_core_groups.py a_group_orders_its_tasks_only_if_it_is_a_barrier",
    "1.3.2": "core/test_core_groups.py a_barrier_stands_between_the_last_tasks_before_it_and_the_first_ones_behind_it",
    "1.3.3": "run/test_groups.py a_group_that_goes_makes_nothing_run",
    "1.4.2": "core/test_core_selector.py nothing_selected_is_the_whole_flow",
    "1.4.6": "run/test_selection.py what_is_not_selected_is_read_as_it_is_published",
    "2.1.3": "config/test_config_objects.py getting_a_context_imports_and_builds_nothing",
    "2.1.6": "visualize/test_visualize_kroki.py a_result_names_the_server_that_its_run_was_configured_with",
    "2.3.1": "run/test_protocol.py begins_that_happen_at_once_open_one_generation_of_each_stage",
    "2.3.3": "backend/metadata/test_metadata_repository.py opening_a_generation_abandons_what_was_open",
    "2.4.1": "run/test_selection.py what_is_not_selected_is_read_as_it_is_published",
    "2.4.2": "core/test_core_references.py references_nest",
    "2.4.3": "run/rules/test_rules_10_sharp_edges.py 10_27_annotations_of_one_consumer_change_nothing_for_another_one",
    "2.4.4": "run/test_protocol.py a_task_opens_its_stage_if_nothing_is_open",
    "2.4.8": "run/test_auto_version.py begin_finds_an_edit_before_any_task_runs",
    "2.4.9": "run/test_cache_validity.py an_unchanged_run_calls_nothing_and_publishes_nothing",
    "2.4.10": "run/test_cache_modes.py a_lazy_task_with_another_query_would_read_fresh_input_too",
    "2.4.11": "run/test_cache_modes.py what_runs_in_a_mode_and_in_the_normal_run_after_it",
    "2.4.13": "run/test_cache_validity.py the_first_run_executes_everything",
    "2.4.17": "run/test_protocol.py a_stage_is_held_until_its_last_reader_is_done",
    "3.1": "cache/test_cache_decision.py every_part_of_a_call_is_part_of_its_identity",
    "3.6": "run/test_auto_version.py an_edit_runs_the_tasks_that_it_changes_and_says_what_changed",
    "3.8": "run/test_cache_modes.py what_runs_in_a_mode_and_in_the_normal_run_after_it",
    "4.1": "run/test_protocol.py after_the_mend_the_run_goes_on_with_what_is_missing",
    "4.3": "backend/metadata/test_metadata_repository.py opening_a_generation_abandons_what_was_open",
    "4.6": "run/test_crashes.py a_kill_at_a_step_leaves_old_or_new_and_the_next_run_converges",
    "5.10": "core/test_core_values.py a_stored_table_comes_back_as_a_descriptor_in_the_generation_that_is_read",
    "10.11": "run/test_cache_validity.py a_renamed_lazy_table_is_not_made_again_and_its_consumers_stay_valid",
    "10.12": "run/test_cache_validity.py ignore_cache_function_keeps_results_valid",
    "10.15": "run/test_selection.py what_is_not_selected_is_read_as_it_is_published",
    "10.16": "run/test_selection.py what_is_not_selected_is_read_as_it_is_published",
    "10.17": "core/test_core_positions.py every_item_key_is_a_position_of_its_own",
    "10.19": "core/test_core_stage.py two_stages_of_a_flow_have_two_names_whatever_their_case",
    "10.20": "core/test_core_materialize.py arguments_of_a_plain_call_are_passed_untouched",
    "10.21": "run/test_protocol.py a_stage_is_held_until_its_last_reader_is_done",
    "10.25": "run/test_config_arguments.py a_configuration_is_no_result",
    "10.26": "run/test_auto_version.py a_task_is_called_once_when_it_runs_and_not_at_all_when_it_is_valid",
    "10.28": "run/test_cache_modes.py what_runs_in_a_mode_and_in_the_normal_run_after_it",
    "10.29": "run/test_local_table_cache.py 10_29_how_often_the_database_is_read",
    "10.32": "backend/table/test_sqlserver_scripts.py "
    "what_a_script_has_made_is_called_in_the_schema_of_the_stage_and_stays_cached",
    "10.34": "core/test_core_values.py a_table_that_was_stored_before_there_was_an_option_comes_back_without_it",
    "10.35": "run/test_nullability.py 10_35_a_table_that_is_carried_over_keeps_its_nullability",
    "10.42": "core/test_core_materialize.py a_running_task_may_not_call_a_task_of_another_input_type",
    "10.44": "run/test_stage_versions.py an_audit_sees_the_tables_of_this_run_and_those_that_readers_see",
    "10.45": "visualize/test_visualize_kroki.py a_result_names_the_server_that_its_run_was_configured_with",
    "10.46": "run/test_protocol.py a_stage_that_another_run_holds_is_busy_and_the_holder_is_named",
    "10.47": "run/test_cache_validity.py a_table_of_a_removed_task_leaves_with_the_next_publish",
    "10.48": "run/test_protocol.py a_flow_that_replaces_the_stage_of_another_one_says_so",
    "10.49": "run/test_protocol.py without_fail_fast_independent_work_goes_on_and_the_failed_stage_is_not_published",
}

#: Rules that say nothing here, and why.
NOT_HERE = {
    "2.4.14": "there is no debug materialization that could taint a task",
    "4.9": "rows are found by what they describe: there are no numbers to give",
    "10.41": "there is no debug materialization that could taint a task",
}


def test_every_numbered_rule_has_a_test_or_a_reason() -> None:
    named: set[str] = set()
    for file in Path(__file__).parent.glob("test_rules_[0-9]*.py"):
        for name in re.findall(r"^def test_(\w+)\(", file.read_text(), flags=re.MULTILINE):
            numbers = re.match(r"\d[\d_]*?_(?:and_\d[\d_]*?_)*(?=[a-z])", name)
            assert numbers is not None, f"{name} begins with the number of a rule"
            named |= {number.strip("_").replace("_", ".") for number in numbers[0].split("and_")}
    # A test of a step, 2.4.15, is one of its rule, 2.4, too.
    named |= {number.rpartition(".")[0] for number in named}

    for place in ELSEWHERE.values():
        file_name, test = place.split()
        assert f"def test_{test}(" in (TESTS / file_name).read_text(), place
    without = [rule for rule in RULES if rule not in named | ELSEWHERE.keys() | NOT_HERE.keys()]
    assert without == []
    assert not ELSEWHERE.keys() & NOT_HERE.keys()
    assert {*ELSEWHERE, *NOT_HERE} <= {*RULES}
