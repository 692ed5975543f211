//! The corpus of this crate's fuzz targets (`fuzz/`).

use crate::fuzzing as checks;

#[path = "../../../fuzz/src/corpus.rs"]
mod kept;

#[test]
fn a_layer_becomes_one_tree_within_its_limits() {
    kept::run("image_layer", checks::image_layer);
}

#[test]
fn an_archive_of_layers_holds_what_it_says() {
    kept::run("image_archive", checks::image_archive);
}

#[test]
fn what_is_said_of_an_image_is_bounded_and_names_content_by_digests() {
    kept::run("image_manifest", checks::image_manifest);
}

#[test]
fn a_reference_is_one_place_in_a_registry() {
    kept::run("image_reference", checks::image_reference);
}

#[test]
fn a_package_is_neither_an_option_nor_a_path() {
    kept::run("package_list", checks::package_list);
}

#[test]
fn a_kernel_is_taken_whole_or_not_at_all() {
    kept::run("kernel_file", checks::kernel_file);
}

#[test]
fn a_guest_is_understood_in_one_way_only() {
    kept::run("guest_reply", checks::guest_reply);
}

#[test]
fn the_process_of_a_vm_is_understood_as_what_it_says() {
    kept::run("vmm_answer", checks::vmm_answer);
}
