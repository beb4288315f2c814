"""The upstream contract: every name of other packages that we touch, with the reason.

LlamaFactory, transformers, trl, peft, accelerate, DeepSpeed, VLMEvalKit, qwen_vl_utils and vLLM. `contract.py` looks
whether the names are there. A reason stands for all names in front of it. `TRAINING` and `EVALUATION` hold what
`upstream_names.py` finds in our sources (a test compares the two); `REACHED` what goes through objects under names
that say nothing there.
"""

TRAINER = "llamafactory.train.dpo.trainer.CustomDPOTrainer"
DPO = "llamafactory.train.dpo"
HPARAMS = "llamafactory.hparams"

TRAINING = {
    # our way in
    f"{DPO}: run_dpo": "what train.tuner calls, and what the replaced file brings",
    f"{DPO}.workflow: run_dpo": "upstream's own, which runs with our classes standing in",
    f"{DPO}.workflow: PairwiseDataCollatorWithPadding get_dataset create_ref_model": "taken from its module",
    f"{DPO}.workflow: load_model load_tokenizer": "taken from its module; told by name when they fail",
    "llamafactory.train: tuner": "imported by the data check so that our options join the parser",
    # options
    f"{HPARAMS}: parser": "the module with the lists of argument classes",
    f"{HPARAMS}.parser: _TRAIN_ARGS": "our options join this list",
    f"{HPARAMS}: get_train_args read_args": "the command that fills caches reads a configuration as training does",
    f"{HPARAMS}: ModelArguments DataArguments FinetuningArguments": "read by run_dpo and by the data check",
    f"{HPARAMS}.finetuning_args: FinetuningArguments": "the base of our options",
    f"{HPARAMS}.finetuning_args.FinetuningArguments: __post_init__ to_dict pref_loss stage": "checked and reported",
    f"{HPARAMS}.FinetuningArguments: use_ref_model": "whether there is a reference to compare with",
    f"{HPARAMS}.ModelArguments: adapter_folder use_unsloth": "which adapters are merged before training",
    f"{HPARAMS}.ModelArguments: audio_sampling_rate": "what stored log-probs depend on",
    f"{HPARAMS}.FinetuningArguments: create_new_adapter finetuning_type pure_bf16": "what stored log-probs depend on",
    f"{HPARAMS}.FinetuningArguments: ref_model ref_model_adapters ref_model_quantization_bit": "which reference it is",
    f"{HPARAMS}.ModelArguments: model_name_or_path adapter_name_or_path": "which model stored log-probs are of",
    f"{HPARAMS}.ModelArguments: compute_dtype quantization_bit": "what stored log-probs depend on",
    f"{HPARAMS}.ModelArguments: use_kt": "brings a trainer of its own and is refused",
    f"{HPARAMS}.DataArguments: dataset eval_dataset": "names of data sets, for messages",
    f"{HPARAMS}.parser: _parse_args read_args": "what the parser stumbles over is told as options",
    f"{HPARAMS}.DataArguments: dataset_dir template tokenized_path streaming": "where pairs come from, and how",
    # data
    "llamafactory: data": "its sources decide what a kept part of tokenising is worth",
    "llamafactory.data.loader: PairwiseDatasetProcessor get_dataset_list _load_single_dataset align_dataset "
    "load_dataset _get_preprocessed_dataset": ("the loader takes them from its module, so ours are found there"),
    "llamafactory.data.converter: DATASET_CONVERTERS": "the table that ours stands in for",
    "llamafactory.data.converter: AlpacaDatasetConverter SharegptDatasetConverter OpenAIDatasetConverter": (
        "the bases of converters that read scores"
    ),
    "llamafactory.data.converter: get_dataset_converter": "the data check converts rows as training does",
    "llamafactory.data.parser: DatasetAttr": "the base of the entry that knows the columns of scores",
    "llamafactory.data.parser.DatasetAttr: join __repr__ dataset_name": "reads dataset_info.json; messages",
    "llamafactory.data.processor: PairwiseDatasetProcessor": "the base of our tokenisation",
    "llamafactory.data.processor.PairwiseDatasetProcessor: preprocess_dataset _encode_data_example": "row by row",
    "llamafactory.data.processor.PairwiseDatasetProcessor: template tokenizer data_args": "its fields",
    "llamafactory.data.processor.processor_utils: infer_seqlen": "the data check cuts as training does",
    "llamafactory.data.template: Template": "knows templates that encode in a way of their own",
    "llamafactory.data.template.Template: encode_oneturn": "encodes a prompt, which we remember",
    "llamafactory.data.template: get_template_and_fix_tokenizer": "the data check counts tokens as training does",
    "llamafactory.data.collator: PairwiseDataCollatorWithPadding": "the base of our collator",
    "llamafactory.data.collator.PairwiseDataCollatorWithPadding: __call__ __post_init__ template model": (
        "collates upstream's columns; ours come after it"
    ),
    "llamafactory.model.loader: load_config": "reads what either major version of transformers saved",
    "llamafactory.model: load_tokenizer": "the data check counts tokens as training does",
    "llamafactory.data.parser: get_dataset_list": "from which files a `tokenized_path` was made",
    "llamafactory.extras.misc: has_tokenized_data": "whether it was made",
    "llamafactory.extras.misc: get_device_count": "whether caches are filled by torchrun, as training would be",
    # helpers
    "llamafactory.extras.constants: CHECKPOINT_NAMES": "whether a checkpoint holds weights",
    "llamafactory.extras.constants: DATA_CONFIG": "the name of dataset_info.json, for messages",
    "llamafactory.extras.constants: IGNORE_INDEX": "which labels are not scored",
    "llamafactory.extras.constants: IMAGE_PLACEHOLDER VIDEO_PLACEHOLDER AUDIO_PLACEHOLDER": "media in a prompt's text",
    "llamafactory.extras: logging": "messages look like upstream's",
    "llamafactory.extras.logging: get_logger": "messages look like upstream's",
    "llamafactory.extras.misc: is_env_enabled": "reads USE_MCA, USE_V1 and DISABLE_VERSION_CHECK as upstream does",
    "llamafactory.extras.misc: use_modelscope use_openmind": "a checkpoint of theirs has no folder we could look into",
    "llamafactory.extras.env: VERSION": "the version of a checkout, which need not be installed",
    # the trainer, as it is made of LlamaFactory, trl and transformers
    "llamafactory": "which of them is in use",
    "llamafactory: __file__": "which of them is in use",
    f"{DPO}: trainer": "whether its log-probs are sums",
    f"{DPO}.trainer: CustomDPOTrainer": "the base of our trainer; run_dpo imports it late, so ours is found",
    f"{TRAINER}: __init__ train evaluate": "caches are filled before it trains or evaluates",
    f"{TRAINER}: _prepare_inputs": "scores leave the batch before DeepSpeed would round them",
    f"{TRAINER}: get_batch_loss_metrics": "ours keeps metrics on the device and leaves the pair log its terms",
    f"{TRAINER}: concatenated_forward compute_reference_log_probs compute_preference_loss": "the steps of the loss",
    f"{TRAINER}: dpo_loss": "trl's losses, which are told their name and get scaled log-ratios where asked",
    f"{TRAINER}: log _stored_metrics": "metrics are read from the device just before they are logged",
    f"{TRAINER}: _maybe_log_save_evaluate save_model": "the guard looks before anything is logged or saved",
    f"{TRAINER}: create_optimizer": "empty groups of weights go, at which torch's schedulers fail under DeepSpeed",
    "transformers: Trainer": "the base of exact resuming and of whole saves",
    "transformers.Trainer: _get_train_sampler": "the order of an epoch depends on seed and epoch alone",
    "transformers.Trainer: _load_from_checkpoint _load_best_model": "checkpoints are loaded with keys renamed back",
    "transformers.Trainer: _load_optimizer_and_scheduler _load_rng_state": "told by name when they fail",
    "transformers.Trainer: _inner_training_loop train_dataset": "a resumed run has its own batches of the same rows",
    "transformers.Trainer: _determine_best_metric": "the best of all evaluations is what comes back at the end",
    "transformers.Trainer: create_accelerator_and_postprocess accelerator": "what FSDP rounds is set before it wraps",
    "transformers.Trainer: training_step": "a micro-batch that was joined to another has nothing left to train on",
    "transformers.Trainer: get_batch_samples _maybe_log_save_evaluate": "a run that was over takes no further step",
    "transformers.Trainer: __init__ train pop_callback": "the processor is saved with a checkpoint, not after it",
    "transformers.Trainer: _save_checkpoint _get_output_dir _push_from_checkpoint": "written aside, then renamed",
    "transformers.Trainer: save_model _save _save_optimizer_and_scheduler _save_rng_state": "a full disk is explained",
    "transformers.Trainer: save_metrics save_state": "written aside, then renamed, too",
    "transformers.Trainer: args control state model is_deepspeed_enabled is_fsdp_enabled": "read",
    "transformers.Trainer: is_local_process_zero is_world_process_zero": "read",
    "llamafactory.train.callbacks: SaveProcessorCallback": "what it saves comes into the checkpoint before its rename",
    f"{TRAINER}: add_callback": "the pair log is a callback",
    f"{TRAINER}: args finetuning_args state model ref_model accelerator data_collator": "read",
    f"{TRAINER}: train_dataset eval_dataset": "looked through by the self-check and by the caches",
    f"{TRAINER}: beta ftx_gamma ld_alpha loss_type": "terms of upstream's losses, which ours shares",
    f"{TRAINER}: is_deepspeed_enabled is_fsdp_enabled is_world_process_zero": "who holds and who saves the weights",
    # transformers
    "transformers.TrainerState: load_from_json": "whether a checkpoint is whole",
    "transformers: Seq2SeqTrainingArguments TrainingArguments TrainerCallback TrainerControl TrainerState": "types",
    "transformers.Seq2SeqTrainingArguments: do_train should_save output_dir": "whether and where the run is plotted",
    "transformers.Seq2SeqTrainingArguments: bf16 fp16 deepspeed": "precision, which stored log-probs depend on",
    "transformers.Seq2SeqTrainingArguments: group_by_length train_sampling_strategy": "refused; one is there",
    "transformers.Seq2SeqTrainingArguments: accelerator_config dataloader_num_workers": "how a stream is dealt out",
    "transformers.Seq2SeqTrainingArguments: process_index": "one rank speaks for all",
    "transformers.Seq2SeqTrainingArguments: distributed_state": "ranks wait for each other before they part",
    "transformers.Seq2SeqTrainingArguments: main_process_first": "one rank hashes the data, the others find it done",
    "transformers.TrainerCallback: __init__ on_step_end on_train_begin": "when the pair log is written and cut back",
    "transformers": "its version, for a message",
    "transformers: __version__": "its version, for a message",
    "transformers.PreTrainedModel.from_pretrained: __func__": "as a class method, which ours stands in for",
    "transformers.PreTrainedModel: from_pretrained": "tells which weights were missing or left over",
    "transformers: PreTrainedModel": "a model whose whole checkpoint from_pretrained can load again",
    "transformers.trainer_utils: TrainOutput": "type",
    "transformers: AutoConfig AutoImageProcessor": "what caches depend on",
    "transformers: BatchFeature": "what an image processor returns",
    "transformers.AutoConfig: from_pretrained": "what caches depend on",
    "transformers.AutoImageProcessor: from_pretrained": "what caches depend on",
    "transformers.integrations: is_deepspeed_zero3_enabled": "parameters that are empty placeholders",
    "transformers.modeling_utils: ALL_ATTENTION_FUNCTIONS": "where an attention of ours is made known",
    "transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS: register": "where an attention of ours is made known",
    "transformers.masking_utils: ALL_MASK_ATTENTION_FUNCTIONS": "and the mask that it takes",
    "transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS: register": "and the mask that it takes",
    "transformers.modeling_outputs: BaseModelOutputWithPooling": "what an encoder of images returns in transformers 5",
    "transformers.utils: logging": "the data check silences warnings of long prompts",
    "transformers.utils.logging: set_verbosity_error": "the data check silences warnings of long prompts",
    # others
    "peft.PeftModel: load_adapter": "tells which weights were missing or left over",
    "accelerate: Accelerator DistributedType": "shared work, and how it is shared",
    "accelerate.DistributedType: FSDP": "where only the main process need have loaded weights",
    "accelerate.utils: gather_object broadcast_object_list": "rows of the pair log, and decisions that ranks share",
    "deepspeed": "only under ZeRO-3",
    "deepspeed: zero": "only under ZeRO-3",
    "deepspeed.runtime.fp16.loss_scaler: DynamicLossScaler LossScaler": "in the files that a resumed run loads",
    "deepspeed.runtime.zero.config: ZeroStageEnum": "in the files that a resumed run loads",
    "deepspeed.utils.tensor_fragment: fragment_address": "in the files that a resumed run loads",
    "deepspeed.zero: GatheredParameters": "a model that is not wrapped yet, whole",
    # scores from models: `data.py score`
    "transformers: AutoModelForCausalLM AutoModelForImageTextToText AutoModelForSequenceClassification": "scorers",
    "transformers: AutoProcessor AutoTokenizer": "scorers' processors",
    "transformers.AutoTokenizer: from_pretrained": "scorers' processors",
    "transformers.AutoModelForImageTextToText: _model_mapping": "whether an architecture takes images",
    "transformers.AutoModelForImageTextToText._model_mapping: keys": "whether an architecture takes images",
    "vllm: LLM SamplingParams PoolingParams": "scorers with vLLM",
    "vllm.v1.engine.exceptions: EngineDeadError": "an engine that died",
}

EVALUATION = {
    "vlmeval: __version__": "the version of a checkout, which need not be installed",
    "vlmeval.vlm.base: BaseModel": "the base of our model",
    "vlmeval.vlm.base.BaseModel: __init__ preproc_content generate_inner": "a message in, an answer out",
    "vlmeval.vlm.base.BaseModel: set_dump_image dump_image_func": "the loop's way to hand us a data set",
    "vlmeval.vlm.base.BaseModel: use_custom_prompt build_prompt": "and its rows",
    "vlmeval.vlm.qwen2_vl: model": "asked for what this version brings",
    "vlmeval.vlm.qwen2_vl.model: Qwen2VLChat": "the replaced file brings it, as upstream's does",
    "vlmeval.vlm.qwen2_vl.model: Qwen2VLChatAguvis": "and this where it is there",
    "vlmeval.vlm.qwen2_vl.prompt: Qwen2VLPromptMixin": "words questions as upstream's model does",
    "vlmeval.vlm.qwen3_vl.prompt: Qwen3VLPromptMixin": "the same for Qwen3-VL, where this version has it",
    "vlmeval: dataset smp": "data sets and files",
    "vlmeval.dataset: SUPPORTED_DATASETS build_dataset": "data sets by name",
    "vlmeval.dataset: ImageMCQDataset ImageYORNDataset ImageVQADataset OCRBench": "how they score, we check before",
    "vlmeval.dataset.ImageMCQDataset: evaluate": "the same way of scoring for classes made of it",
    "vlmeval.dataset.ImageYORNDataset: evaluate": "the same",
    "vlmeval.dataset.ImageVQADataset: evaluate": "the same",
    "vlmeval.dataset.OCRBench: evaluate": "the same",
    "vlmeval.dataset.utils.vqa_eval: hit_calculate process_line": "judge short answers where a rule asks for it",
    "vlmeval.dataset.image_base: ImageBaseDataset": "what writes a row's picture",
    "vlmeval.dataset.image_base.ImageBaseDataset: dump_image": "what writes a row's picture",
    "vlmeval.smp: LMUDataRoot": "where benchmarks are",
    "vlmeval.smp: dump timestr githash": "prediction files, and their folders in older checkouts",
    "vlmeval.smp: get_pred_file_path upsert_dataset_status build_eval_id": "and in newer ones",
    "transformers: AutoProcessor AutoModelForImageTextToText": "the checkpoint under evaluation",
    "transformers.AutoProcessor: from_pretrained": "the checkpoint under evaluation",
    "transformers.AutoModelForImageTextToText: from_pretrained": "the checkpoint under evaluation",
    "transformers.models.auto.modeling_auto: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": "the class of a model type",
    "transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES: get": "the same",
    "transformers.utils: is_flash_attn_2_available": "the fastest attention that is installed",
    "peft: PeftModel": "LoRA folders",
    "peft.PeftModel: from_pretrained": "LoRA folders",
    "transformers.__version__: startswith": "which of two ways a processor takes the rate of a video",
    "qwen_vl_utils: vision_process": "frames of a video",
    "qwen_vl_utils.vision_process: fetch_video": "frames of a video",
    "qwen_vl_utils.vision_process: FORCE_QWENVL_VIDEO_READER": "the reader, of those that are there",
    "vllm: LLM SamplingParams": "answers from vLLM",
}

# Asked for with `hasattr` or `getattr`: it may be missing.
OPTIONAL = {
    f"{HPARAMS}.ModelArguments.use_kt",
    "transformers.Seq2SeqTrainingArguments.group_by_length",
    "transformers.Seq2SeqTrainingArguments.train_sampling_strategy",
    "vlmeval.smp.get_pred_file_path",
    "vlmeval.smp.upsert_dataset_status",
    "vlmeval.smp.build_eval_id",
    "vlmeval.vlm.qwen2_vl.model.Qwen2VLChatAguvis",
    "vlmeval.vlm.qwen3_vl.prompt.Qwen3VLPromptMixin",
}

QWEN = "transformers.models.qwen2_vl.modeling_qwen2_vl"
QWEN25 = "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"

# Reached through `trainer.accelerator`, `model.model.visual`, `args.pref_beta` and the like.
REACHED = {
    "llamafactory.train.tuner: run_dpo": "our way in: it has to be the overlay's",
    f"{HPARAMS}.finetuning_args.FinetuningArguments: pref_beta pref_ftx pref_bco_weight dpo_label_smoothing": (
        "checked beside our options"
    ),
    f"{HPARAMS}.finetuning_args.FinetuningArguments: ld_alpha": "checked beside our options",
    f"{DPO}.trainer: get_batch_logps": "tried on two rows: its log-probs have to be sums",
    "llamafactory.data.converter.AlpacaDatasetConverter: dataset_attr": "says where scores are",
    "llamafactory.data.mm_plugin.BasePlugin: process_messages get_mm_inputs image_token video_token": (
        "stood in for, so that media are processed once a pair"
    ),
    "trl.DPOTrainer: log store_metrics": "means over ranks of the metrics that we leave",
    "accelerate.Accelerator: no_sync reduce autocast is_main_process process_index num_processes": "shared work",
    "accelerate.utils.FullyShardedDataParallelPlugin: mixed_precision_policy fsdp_version": "what FSDP rounds",
    "accelerate.utils.DeepSpeedPlugin: deepspeed_config": "how DeepSpeed adds up",
    "transformers.TrainerState: global_step epoch best_model_checkpoint is_world_process_zero": "where a run is",
    "transformers.trainer_pt_utils.AcceleratorConfig: dispatch_batches": "every rank reads its part of a stream",
    "transformers.TrainingArguments: device seed data_seed logging_nan_inf_filter disable_tqdm": "guard and order",
    f"{QWEN}.Qwen2VLForConditionalGeneration: lm_head model get_input_embeddings get_output_embeddings": "the engine",
    f"{QWEN}.Qwen2VLModel: visual language_model get_image_features get_video_features": "the engine",
    f"{QWEN25}.Qwen2_5_VLForConditionalGeneration: lm_head model get_input_embeddings get_output_embeddings": "same",
    f"{QWEN25}.Qwen2_5_VLModel: visual language_model get_image_features get_video_features": "the same",
    "transformers.models.qwen2.modeling_qwen2.Qwen2ForCausalLM: lm_head model": "the engine on text models",
    "peft.PeftModel: get_base_model": "a model out of its wrapper",
    "peft.tuners.lora.layer.LoraLayer: base_layer": "an adapter in the vision tower",
}

# Parameters, in order, of what we stand in for, override or call by position; "..." for any more.
SIGNATURES = {
    f"{DPO}.workflow.run_dpo": "model_args data_args training_args finetuning_args callbacks",
    "llamafactory.data.loader.align_dataset": "dataset dataset_attr data_args training_args",
    "llamafactory.data.loader._load_single_dataset": "dataset_attr model_args data_args training_args",
    "llamafactory.data.loader.get_dataset_list": "dataset_names dataset_dir",
    "llamafactory.data.loader._get_preprocessed_dataset": "dataset ...",
    "llamafactory.data.parser.DatasetAttr.join": "self attr",
    "llamafactory.data.converter.AlpacaDatasetConverter.__call__": "self example",
    "llamafactory.data.converter.SharegptDatasetConverter.__call__": "self example",
    "llamafactory.data.converter.OpenAIDatasetConverter.__call__": "self example",
    "llamafactory.data.processor.PairwiseDatasetProcessor.preprocess_dataset": "self examples",
    "llamafactory.data.processor.PairwiseDatasetProcessor._encode_data_example": "self prompt response ...",
    "llamafactory.data.collator.PairwiseDataCollatorWithPadding.__call__": "self features",
    "llamafactory.data.template.Template.encode_oneturn": "self tokenizer messages system tools",
    "llamafactory.data.mm_plugin.BasePlugin.process_messages": "self messages images videos audios processor",
    "llamafactory.data.mm_plugin.BasePlugin.get_mm_inputs": (
        "self images videos audios imglens vidlens audlens batch_ids processor"
    ),
    f"{TRAINER}.compute_preference_loss": (
        "self policy_chosen_logps policy_rejected_logps reference_chosen_logps reference_rejected_logps"
    ),
    f"{TRAINER}.dpo_loss": "self chosen_logps rejected_logps ref_chosen_logps ref_rejected_logps ...",
    f"{TRAINER}.concatenated_forward": "self model batch is_ref_model",
    f"{TRAINER}.get_batch_loss_metrics": "self model batch train_eval",
    f"{TRAINER}.compute_reference_log_probs": "self model batch",
    "transformers.Trainer._inner_training_loop": "self batch_size ...",
    "transformers.Trainer._determine_best_metric": "self metrics trial",
    "transformers.Trainer._maybe_log_save_evaluate": "self tr_loss grad_norm ...",
    "transformers.Trainer._load_from_checkpoint": "self resume_from_checkpoint model",
    "transformers.Trainer._load_best_model": "self",
    "transformers.Trainer._load_optimizer_and_scheduler": "self checkpoint",
    "transformers.Trainer._load_rng_state": "self checkpoint",
    "transformers.Trainer._prepare_inputs": "self inputs",
    f"{QWEN}.Qwen2VLModel.get_image_features": "self pixel_values image_grid_thw ...",
    f"{QWEN}.Qwen2VLModel.get_video_features": "self pixel_values_videos video_grid_thw ...",
    f"{QWEN25}.Qwen2_5_VLModel.get_image_features": "self pixel_values image_grid_thw ...",
    f"{QWEN25}.Qwen2_5_VLModel.get_video_features": "self pixel_values_videos video_grid_thw ...",
    "vlmeval.vlm.base.BaseModel.generate": "self message dataset",
    "vlmeval.vlm.base.BaseModel.preproc_content": "self inputs",
}

# What upstream's code has to say, for ours to be found or to be asked in the right order: function, words, reason.
WORDS = (
    (f"{DPO}.workflow.run_dpo", "from .trainer import CustomDPOTrainer", "imported late, so that ours is found"),
    (
        "llamafactory.data.loader._get_merged_dataset",
        "get_dataset_list(dataset_names, data_args.dataset_dir)",
        "in the order of the option, which is how a data set gets its name",
    ),
    ("llamafactory.data.loader._get_preprocessed_dataset", "dataset = dataset.map(", "once, which is done in parts"),
    ("llamafactory.data.parser.get_dataset_list", "DatasetAttr(", "taken from its module, so that ours is found"),
)
