import { InputDialog } from '@jupyterlab/apputils';
import type * as nbformat from '@jupyterlab/nbformat';
import type { INotebookModel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';

import type { ITravelOptions, SnapshotError } from '../api';
import { baseName, nextName, stemOf } from '../format';
import type { SnapshotModel } from '../model';
import type { INoticeAction, Notices } from '../notices';
import type { ITarget, Targets } from '../targets';
import type { IRun, ITravelAnswer } from '../types';
import { applyDocument, isEdited, withEdits } from './apply';
import type { Timelines } from './timelines';

/**
 * What people do with a timeline: back and forth, each with its notebook.
 */
export class Travels {
  constructor(
    private readonly model: SnapshotModel,
    private readonly targets: Targets,
    private readonly timelines: Timelines,
    private readonly notices: Notices,
    private readonly trans: TranslationBundle
  ) {}

  /** Shows a snapshot in the panel. */
  show: (name: string) => void = () => undefined;

  /** Switch the timeline of a kernel on or off. */
  async switch({ kernelId }: ITarget, isOn: boolean): Promise<void> {
    try {
      await this.timelines.switch(kernelId, isOn);
    } catch (error) {
      this.notices.fail(error);
    }
  }

  /** Bring kernel and notebook back to before the last run, or forward again. */
  async step(target: ITarget, steps: number): Promise<void> {
    await this.travel(target, { steps });
  }

  /** Bring kernel and notebook to a point. */
  async goTo(target: ITarget, point: string): Promise<void> {
    await this.travel(target, { point });
  }

  /** Make a point a snapshot that stays. */
  async keep(target: ITarget, point: string): Promise<void> {
    const { model, notices, trans } = this;
    const path = target.notebook?.context.path ?? '';
    const names = model.snapshots.map(({ name }) => name);
    const { value } = await InputDialog.getText({
      title: trans.__('Keep This Point'),
      label: trans.__('Name of the snapshot'),
      text: nextName(baseName(stemOf(path)) || 'point', names)
    });
    if (!value) {
      return;
    }
    await notices.during(
      trans.__('Keeping the point…'),
      () => model.client.keepPoint(target.kernelId, point, value),
      ({ name }) => ({
        message: trans.__('Kept as snapshot “%1”.', name),
        actions: [
          {
            label: trans.__('Show'),
            caption: trans.__('Show this snapshot in the panel'),
            isMain: true,
            callback: () => this.show(name)
          }
        ]
      })
    );
  }

  private async travel(
    target: ITarget,
    where: ITravelOptions,
    keep = true
  ): Promise<void> {
    const { model, notices, timelines, trans } = this;
    const { kernelId } = target;
    if (model.activity(kernelId)) {
      return;
    }
    const models = this.modelsOf(kernelId);
    const now = models[0]?.toJSON() as nbformat.INotebookContent | undefined;
    let then: nbformat.INotebookContent | undefined;
    await notices.during(
      trans.__('Bringing the kernel back…'),
      () =>
        model.during('travel', kernelId, async () => {
          const answer = await model.client.travel(kernelId, {
            ...where,
            keep,
            document: now
          });
          if (answer.document && models.length) {
            then = (await model.client.timelineDocument(
              kernelId,
              answer.document
            )) as nbformat.INotebookContent;
            for (const each of models) {
              applyDocument(each, then);
            }
          }
          timelines.take(await model.client.timeline(kernelId));
          return answer;
        }),
      answer => ({
        message: this.said(answer, models.length > 0 && !then),
        warnings: answer.warnings,
        actions: this.actionsAfter(target, answer, models, now, then)
      }),
      { failure: error => this.anyway(error, target, where) }
    );
  }

  /** What is offered when the kernel is back. */
  private actionsAfter(
    target: ITarget,
    answer: ITravelAnswer,
    models: readonly INotebookModel[],
    now?: nbformat.INotebookContent,
    then?: nbformat.INotebookContent
  ): INoticeAction[] {
    const { trans } = this;
    const actions: INoticeAction[] = [];
    if (now && then && isEdited(now, then)) {
      actions.push({
        label: trans.__('Keep My Edits'),
        caption: trans.__(
          'Have the text of the notebook be what it was a moment ago'
        ),
        callback: () =>
          models.forEach(each => applyDocument(each, withEdits(then, now)))
      });
    }
    if (answer.left) {
      actions.push({
        label: answer.run ? trans.__('Redo') : trans.__('Back'),
        caption: trans.__('Go on from where the kernel was before'),
        isMain: true,
        callback: () => void this.goTo(target, answer.left)
      });
    }
    return actions;
  }

  private said({ run }: ITravelAnswer, isWithoutNotebook: boolean): string {
    const { trans } = this;
    const said = run
      ? trans.__(
          'Kernel and notebook are back at before %1.',
          nameOf(run, trans)
        )
      : trans.__('Kernel and notebook are at another point.');
    return isWithoutNotebook
      ? trans.__(
          '%1 The notebook is as it is: how it was then is not known.',
          said
        )
      : said;
  }

  private anyway(
    error: SnapshotError,
    target: ITarget,
    where: ITravelOptions
  ): INoticeAction[] {
    const { trans } = this;
    return error.isNotKept
      ? [
          {
            label: trans.__('Go back anyway'),
            caption: trans.__('What runs now will be lost'),
            callback: () => void this.travel(target, where, false)
          }
        ]
      : [];
  }

  /** Of all notebooks on this page that work with a kernel; each once. */
  private modelsOf(kernelId: string): INotebookModel[] {
    const models = this.targets
      .of(kernelId)
      .map(({ notebook }) => notebook?.content.model)
      .filter((model): model is INotebookModel => !!model && !model.readOnly);
    return [...new Set(models)];
  }
}

/** A run, as people know it. */
export function nameOf(run: IRun, trans: TranslationBundle): string {
  if (!run.msg_id) {
    return run.outcome === 'restarted'
      ? trans.__('the restart')
      : run.outcome === 'restored'
        ? trans.__('the restore')
        : trans.__('the kernel’s end');
  }
  const [line] = run.code.trim().split('\n');
  return line.length > 40
    ? trans.__('“%1…”', line.slice(0, 39).trimEnd())
    : trans.__('“%1”', line);
}
