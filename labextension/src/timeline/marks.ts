import type { NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { undoIcon } from '@jupyterlab/ui-components';

import { formatTime } from '../format';
import type { IPlace, Targets } from '../targets';
import { marksOf, type IMark, type Timelines } from './timelines';
import type { Travels } from './travels';

const MARK_CLASS = 'jp-cr-Mark';
const MARKED_CLASS = 'jp-cr-mod-marked';

/**
 * In the gutter of each cell before whose last run there is a point: a button that leads
 * there.
 */
export class Marks {
  constructor(
    private readonly targets: Targets,
    private readonly timelines: Timelines,
    private readonly travels: Travels,
    private readonly trans: TranslationBundle
  ) {
    for (const place of targets.places()) {
      this.follow(place);
    }
    targets.opened.connect((_, place) => this.follow(place));
    targets.changed.connect(this.look, this);
    timelines.changed.connect(this.look, this);
  }

  private follow({ notebook }: IPlace): void {
    const look = () => notebook && this.lookAt(notebook);
    notebook?.content.modelContentChanged.connect(look);
    look();
  }

  private look(): void {
    for (const { notebook } of this.targets.places()) {
      if (notebook) {
        this.lookAt(notebook);
      }
    }
  }

  private lookAt(panel: NotebookPanel): void {
    const kernelId = panel.sessionContext.session?.kernel?.id;
    const timeline = kernelId ? this.timelines.of(kernelId) : undefined;
    const marks = timeline?.is_on ? marksOf(timeline) : new Map();
    for (const { model, node } of panel.content.widgets) {
      this.mark(panel, node, marks.get(model.id));
    }
  }

  private mark(
    panel: NotebookPanel,
    node: HTMLElement,
    mark: IMark | undefined
  ): void {
    const present = node.querySelector<HTMLButtonElement>(
      `:scope > .${MARK_CLASS}`
    );
    if (!mark) {
      present?.remove();
      node.classList.remove(MARKED_CLASS);
      return;
    }
    if (present?.dataset.point === mark.point.name) {
      return;
    }
    present?.remove();
    const { trans } = this;
    const button = document.createElement('button');
    button.className = MARK_CLASS;
    button.dataset.point = mark.point.name;
    button.title = trans.__(
      'Go back to before this run, of %1: kernel and notebook',
      formatTime(mark.run.started)
    );
    button.setAttribute('aria-label', button.title);
    undoIcon.element({ container: button, tag: 'span', elementSize: 'small' });
    button.addEventListener('click', event => {
      // The cell is not to be selected, nor its editor to lose the cursor.
      event.stopPropagation();
      const target = this.targets.at(panel.id);
      if (target) {
        void this.travels.goTo(target, mark.point.name);
      }
    });
    node.classList.add(MARKED_CLASS);
    node.append(button);
  }
}
